import os

from shop.basket import Basket


def checkout(request):
    basket = Basket(currency=os.environ["CURRENCY"])
    for item in request.json["items"]:
        basket.add(item["name"], item["price"])
    if not basket:
        return {"error": "the basket is empty"}, 422
    return {"receipt": basket.receipt()}, 201, {"x-items": len(basket)}
