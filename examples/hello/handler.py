def handle(request):
    name = (request.json or {}).get("name", "World")
    print("greeting", name)
    return {"message": f"Hello, {name}!"}
