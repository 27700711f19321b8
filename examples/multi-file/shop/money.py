def show(cents, currency):
    return f"{cents // 100}.{cents % 100:02} {currency}"
