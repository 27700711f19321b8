from .money import show


class Basket:
    def __init__(self, currency):
        self.currency = currency
        self.prices = {}

    def __len__(self):
        return len(self.prices)

    def add(self, name, price):
        self.prices[name] = self.prices.get(name, 0) + price

    def receipt(self):
        lines = [f"{name}: {show(price, self.currency)}" for name, price in self.prices.items()]
        return [*lines, f"total: {show(sum(self.prices.values()), self.currency)}"]
