"""Mirrors a grey image: binary PGM in, binary PGM out. Bytes stay bytes both ways."""

from hearth_runtime import BadRequest, Response


def handle(request):
    magic, size, depth, pixels = (request.body.split(b"\n", 3) + [b""] * 3)[:4]
    if magic != b"P5":
        raise BadRequest("send a binary PGM image")
    width, height = map(int, size.split())
    rows = [pixels[y * width : (y + 1) * width][::-1] for y in range(height)]
    mirrored = b"\n".join((magic, size, depth, b"".join(rows)))
    return Response(mirrored, headers={"content-type": "image/x-portable-graymap"})
