"""The public listener: bytes to a complete request, and the pipeline route, identify, admit, invoke, reply."""
