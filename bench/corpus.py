"""The functions that are measured: small ones that parse JSON and answer with JSON."""

from __future__ import annotations

PAYLOAD = b'{"name":"hearth","message":"a warm place","items":[1,2,3],"n":17}'

_HEAD = '''\
"""Function {number} of the corpus: checks an order and prices it."""

import time

SEED = {number}
'''

_RULE = '''
def rule_{index}(order):
    """Price rule {index}: a step of the kind that business code is made of."""
    price = order.get("n", {index}) * {index} + SEED
    if price % {modulus} == 0:
        return price - {index}
    return price
'''

_TAIL = """
RULES = [{rules}]


def handle(request):
    order = request.json
    hold = order.get("hold", 0)
    begun = time.monotonic()
    if hold:
        time.sleep(hold)
    total = sum(rule(order) for rule in RULES)
    answer = {{"function": {number}, "total": total, "items": len(order.get("items", ()))}}
    if hold:
        answer["begun"] = begun
        answer["ended"] = time.monotonic()
    return answer
"""

ECHO = '''\
"""The function of the warm rows: JSON in, JSON out."""


def handle(request):
    order = request.json
    return {
        "greeting": "hello " + order["name"],
        "length": len(order["message"]),
        "total": sum(order["items"]),
    }
'''

_PARSED = "    order = request.json\n"
TALKER = ECHO.replace(_PARSED, _PARSED + '    print("a call came in")\n')


def name(number: int) -> str:
    """Return the name of a corpus function."""
    return f"order-{number:04}"


def source(number: int) -> str:
    """Return about 90 lines of Python that differ from function to function."""
    rules = [_RULE.format(index=i, modulus=7 + (number + i) % 90) for i in range(1, 9)]
    names = ", ".join(f"rule_{i}" for i in range(1, 9))
    head, tail = _HEAD.format(number=number), _TAIL.format(number=number, rules=names)
    return head + "\n".join(rules) + "\n" + tail
