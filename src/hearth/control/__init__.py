"""The control API: functions, invocations, keys, health, and the document that describes them."""
