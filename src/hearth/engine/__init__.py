"""What a call or a deploy does: registry, deploy, invoke, pool, scaling, resources, queue."""
