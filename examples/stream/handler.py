"""Counts down, one server-sent event at a time; each leaves as soon as it is yielded."""

from hearth_runtime import Response


def handle(request):
    start = int(request.query.get("from", "3"))
    return Response(countdown(start), headers={"content-type": "text/event-stream"})


def countdown(start):
    for number in range(start, 0, -1):
        yield f"data: {number}\n\n"
    yield "data: liftoff\n\n"
