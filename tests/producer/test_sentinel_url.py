"""A sentinel URL is read as it is written, shown without its passwords, and refused in words."""

import pytest

from farebox.connection import connect, shown
from farebox.errors import ConfigError
from farebox.sentinel import SentinelPool, read


def test_a_sentinel_url_names_the_sentinels_the_primary_and_both_passwords():
    told = read("sentinel://u:p%2Fw@h1:1,h2,[::1]:3/mymaster/4?sentinel_password=s")
    assert told.hosts == (("h1", 1), ("h2", 26379), ("::1", 3))
    assert (told.name, told.is_tls) == ("mymaster", False)
    assert told.options == {"username": "u", "password": "p/w", "db": 4}
    assert told.sentinel_options == {"password": "s"}


def test_tls_speaks_to_both_and_checks_their_names():
    pool = connect("sentinels://h1/mymaster?ssl_ca_certs=ca.pem").connection_pool
    assert isinstance(pool, SentinelPool)
    for options in (pool.connection_kwargs, pool.sentinel_manager.sentinel_kwargs):
        assert (options["ssl_check_hostname"], options["ssl_ca_certs"]) == (True, "ca.pem")
    assert "SSL" in str(pool.connection_class.__mro__)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sentinel://u:hunter2@h1:1,h2:2/m/0", "sentinel://***@h1:1,h2:2/m/0"),
        ("sentinel://h1/m/0?sentinel_password=hunter2", "sentinel://***@h1/m/0"),
        ("sentinel://u:hunter2/w@h1/m/0", "sentinel://***"),
        ("sentinel://h1,h2/m", "sentinel://h1,h2/m"),
    ],
)
def test_a_sentinel_url_is_shown_without_passwords(url, said):
    assert shown(url) == said


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sentinel://h1", "a primary's name"),
        ("sentinel://h1/m/zero", "a primary's name"),
        ("sentinel://h1:x/m", "cannot be read"),
        ("sentinel:///m/0", "cannot be read"),
        ("sentinel://h1/m/0?sentinel_pasword=x", "unknown option sentinel_pasword"),
    ],
)
def test_a_sentinel_url_that_is_wrong_says_what_was_expected(url, reason):
    with pytest.raises(ConfigError, match=reason):
        connect(url)
