# SPDX-License-Identifier: Apache-2.0
"""A site's own PostgreSQL: the database beside it, and how Prefect's driver is told of it."""

from glideflow.instance.site_database import for_asyncpg, prefect_url

SITE = "postgresql://glide:s%40crt@db.example.org:5432/glide"


def test_prefect_has_the_database_beside_ours_with_the_same_options() -> None:
    assert prefect_url(SITE) == SITE + "_prefect"
    assert prefect_url(SITE + "?sslmode=require") == SITE + "_prefect?sslmode=require"


def test_options_that_prefect_s_driver_refuses_in_a_url_go_into_the_environment() -> None:
    url, environment = for_asyncpg(
        SITE + "?sslmode=verify-full&sslrootcert=/etc/ca.pem&ssl_min_protocol_version=TLSv1.3"
    )
    assert url == "postgresql+asyncpg://glide:s%40crt@db.example.org:5432/glide"
    assert environment == {
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/etc/ca.pem",
        "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
    }


def test_a_socket_stays_in_the_url_and_what_is_only_ours_goes_nowhere() -> None:
    url, environment = for_asyncpg(
        "postgresql://glide@/glide?host=/run/postgresql&connect_timeout=3&application_name=x"
    )
    assert url == "postgresql+asyncpg://glide@/glide?host=/run/postgresql"
    assert environment == {}
