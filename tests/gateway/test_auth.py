# ruff: noqa: E501 - tables of bytes read better one case a line
import hashlib

import pytest

from hearth.errors import ConfigError, Forbidden, TooManyRequests, Unauthenticated
from hearth.gateway.auth import (
    Authenticator,
    authorise,
    check_binding,
    check_cross_site,
    check_rebinding,
)
from hearth.gateway.limits import RateLimiter
from hearth.gateway.routes import control_scope, split_function
from hearth.model import SystemClock
from hearth.wire.http1 import HttpLimits, RequestParser


def request(*headers, host="127.0.0.1", method="POST"):
    parser = RequestParser(HttpLimits())
    lines = [f"{method} / HTTP/1.1", f"Host: {host}", *headers, "", ""]
    parser.receive("\r\n".join(lines).encode())
    return parser.head()


@pytest.fixture
def issued():
    auth = Authenticator()
    key, text = auth.issue("ci", ("invoke",), SystemClock())
    auth.add(key)
    return auth, key, text


def test_a_key_is_only_kept_as_its_hash(issued):
    _, key, text = issued
    assert text.startswith(f"hearth_{key.id}_")
    assert len(text.split("_", 2)[2]) == 43
    assert key.secret_sha256 == hashlib.sha256(text.encode()).digest()


def test_a_key_is_taken_from_either_header_and_no_function_sees_it(issued):
    auth, key, text = issued
    for header in (
        f"Authorization: Bearer {text}",
        f"authorization: bearer {text}",
        f"X-API-Key: {text}",
    ):
        sent = request(header)
        assert auth.identify(sent).id == key.id
        assert text.encode() not in sent.forwarded_headers()


def test_a_function_can_have_an_authorization_of_its_own_beside_the_key(issued):
    auth, _, text = issued
    sent = request(f"X-API-Key: {text}", "Authorization: Basic abc")
    auth.identify(sent)
    assert sent.forwarded_headers() == b"host: 127.0.0.1\r\nauthorization: Basic abc\r\n"


@pytest.mark.parametrize(
    "header",
    [
        "X: y",
        "Authorization: Bearer",
        "Authorization: Bearer hearth_x_y",
        "Authorization: Basic abc",
        "X-API-Key:",
    ],
)
def test_without_a_valid_key_there_is_no_way_in(issued, header):
    with pytest.raises(Unauthenticated):
        issued[0].identify(request(header))


def test_a_removed_key_is_refused_at_once_and_the_last_one_opens_local_access(issued):
    auth, key, text = issued
    other, _ = auth.issue("other", ("admin",), SystemClock())
    auth.add(other)
    auth.remove(key.id)
    with pytest.raises(Unauthenticated):
        auth.identify(request(f"X-API-Key: {text}"))
    auth.remove(other.id)
    assert auth.identify(request()).id == "local"


def test_an_invoke_key_is_no_admin_key(issued):
    auth, _, text = issued
    identity = auth.identify(request(f"X-API-Key: {text}"))
    authorise(identity, "invoke")
    with pytest.raises(Forbidden, match="admin"):
        authorise(identity, "admin")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_keys_only_loopback_is_bound(host):
    with pytest.raises(ConfigError, match="hearth key create"):
        check_binding(host, has_keys=False)
    check_binding(host, has_keys=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_loopback_needs_no_key(host):
    check_binding(host, has_keys=False)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "[2001:db8::1]:80",
        "localhost.evil",
    ],
)
def test_a_rebound_name_is_refused(host):
    with pytest.raises(Forbidden):
        check_rebinding(request(host=host), "127.0.0.1")


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8080", "LOCALHOST", "box"])
def test_names_of_this_machine_are_answered(host):
    check_rebinding(request(host=host), "box")


@pytest.mark.parametrize(
    "header",
    [
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://127.0.0.1:3000",
    ],
)
def test_another_web_site_cannot_make_a_browser_change_things(header):
    with pytest.raises(Forbidden):
        check_cross_site(request(header))
    check_cross_site(request(header, method="GET"))


@pytest.mark.parametrize(
    "header", ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Origin: http://127.0.0.1"]
)
def test_our_own_pages_can(header):
    check_cross_site(request(header))


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        (b"GET", b"/healthz", None), (b"HEAD", b"/readyz", None), (b"POST", b"/healthz", "admin"),
        (b"POST", b"/invoke", "invoke"), (b"GET", b"/invocations/ab", "invoke"), (b"DELETE", b"/invocations/ab", "admin"),
        (b"GET", b"/invocations/", "admin"), (b"GET", b"/invocations/ab/logs", "admin"), (b"GET", b"/metrics", "admin"),
        (b"GET", b"/docs", "admin"), (b"GET", b"/openapi.json", "admin"), (b"GET", b"/keys", "admin"), (b"GET", b"/new", "admin"),
    ],
)  # fmt: skip
def test_a_control_route_is_closed_unless_it_was_opened(method, path, scope):
    assert control_scope(method, path) == scope


def test_a_function_path_is_split_from_its_name():
    assert split_function(b"/function/a/b/c", b"/function/") == ("a", b"/b/c")
    assert split_function(b"/function/a", b"/function/") == ("a", b"/")


class FakeClock(SystemClock):
    now = 100.0

    def monotonic(self):
        return self.now


def test_a_burst_is_let_through_then_the_rate():
    clock = FakeClock()
    limiter = RateLimiter(10, 3, clock)
    for _ in range(3):
        limiter.admit("a")
    with pytest.raises(TooManyRequests) as caught:
        limiter.admit("a")
    assert caught.value.retry_after_s == pytest.approx(0.1)
    limiter.admit("b")
    clock.now += 0.1
    limiter.admit("a")
    with pytest.raises(TooManyRequests):
        limiter.admit("a")


def test_full_buckets_are_forgotten():
    clock = FakeClock()
    limiter = RateLimiter(1000, 1, clock)
    for number in range(4096):
        limiter.admit(str(number))
    clock.now += 10
    limiter.admit("one more")
    assert len(limiter._full_at) == 1
