"""The public listener, and the way of a request: route, identify, admit, invoke, reply."""
