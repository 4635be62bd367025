# SPDX-License-Identifier: Apache-2.0
"""A site's own PostgreSQL: what stops the start, one sentence each, with the command that helps."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from glideflow.errors import DatabaseUnavailable, GlideflowError, SettingsError
from glideflow.instance import site_database
from glideflow.instance.site_database import check_site_databases, prefect_url
from glideflow.settings import process_environment
from glideflow.store.migration import migrate

PASSWORD = "s@crt:%/word"
OTHER = "postgresql://nobody:nothing@127.0.0.1:1/nowhere"


class Site:
    """A server's administrator, and the URL that they gave us."""

    def __init__(self, server: str) -> None:
        self.server = server
        place = server.split("@")[1].split("/")[0]
        self.url = f"postgresql://institute:{quote(PASSWORD, safe='')}@{place}/institute"

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Do something as the administrator."""
        url = self.server.removesuffix("postgres") + database
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def problem(self, kind: type[GlideflowError], url: str = "") -> str:
        """Return the sentence that stops the start; it never has the password."""
        with pytest.raises(kind) as caught:
            check_site_databases(url or self.url, prefect_url(url or self.url))
        text = str(caught.value)
        assert "\n" not in text
        assert PASSWORD not in text
        assert quote(PASSWORD, safe="") not in text
        return text


@pytest.fixture
def site(postgres_url: str) -> Iterator[Site]:
    """Two databases of an ordinary role, as the how-to page says."""
    made = Site(postgres_url)
    names = ("institute", "institute_prefect")
    made.run(
        f"CREATE ROLE institute LOGIN PASSWORD '{PASSWORD}'",
        *(f"CREATE DATABASE {name} OWNER institute" for name in names),
    )
    yield made
    made.run(*(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in names), "DROP ROLE institute")


def test_what_the_how_to_page_says_is_enough(site: Site) -> None:
    facts = check_site_databases(site.url, prefect_url(site.url))
    assert (facts.major, facts.role, facts.name) == (18, "institute", "institute")
    migrate(site.url)
    check_site_databases(site.url, prefect_url(site.url))


def test_a_wrong_password_is_said_in_the_server_s_words(site: Site) -> None:
    text = site.problem(DatabaseUnavailable, site.url.replace("institute:", "institute:x"))
    assert text.startswith("database_url cannot be used: the database does not answer (")
    assert 'password authentication failed for user "institute"' in text


def test_a_server_that_is_not_there_is_named(site: Site) -> None:
    assert '"127.0.0.1", port 1 failed: Connection refused' in site.problem(DatabaseUnavailable, OTHER)


def test_a_missing_second_database_is_named_unless_the_prefect_server_is_another_s(site: Site) -> None:
    site.run("DROP DATABASE institute_prefect")
    text = site.problem(DatabaseUnavailable)
    assert "database_url, with _prefect added to the database's name, cannot be used" in text
    assert 'database "institute_prefect" does not exist' in text
    check_site_databases(site.url, "")


def test_a_server_that_is_too_old_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_database, "OLDEST_POSTGRES", 99)
    assert site.problem(SettingsError) == (
        "database_url cannot be used: it is a PostgreSQL 18, and glideflow needs 99 or newer"
    )


def test_a_role_without_the_right_to_make_tables_gets_the_statement_that_helps(site: Site) -> None:
    site.run("ALTER DATABASE institute OWNER TO glideflow")
    text = site.problem(SettingsError)
    assert "the role institute may not make tables in the database institute" in text
    site.run(text.split("`")[1])
    check_site_databases(site.url, prefect_url(site.url))


def test_tables_of_another_role_are_not_ours_until_they_are_given_to_us(site: Site) -> None:
    migrate(site.server.removesuffix("postgres") + "institute")
    text = site.problem(SettingsError)
    assert "tables of the database institute belong to the role glideflow, and we are institute" in text
    # The statement that the sentence has, for the one table: the administrator here owns the server's, too.
    site.run("ALTER TABLE alembic_version OWNER TO institute", database="institute")
    check_site_databases(site.url, prefect_url(site.url))


def test_an_extension_that_prefect_cannot_make_is_named_with_its_database(site: Site) -> None:
    site.run("ALTER DATABASE institute_prefect OWNER TO glideflow")
    site.run("GRANT CREATE ON SCHEMA public TO institute", database="institute_prefect")
    text = site.problem(SettingsError)
    assert text.startswith("database institute_prefect: Prefect needs the extension pg_trgm there")
    site.run(text.split("`")[1], database="institute_prefect")
    check_site_databases(site.url, prefect_url(site.url))


def test_a_database_that_cannot_store_every_text_is_refused(site: Site) -> None:
    words = "OWNER institute ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
    site.run("DROP DATABASE institute", f"CREATE DATABASE institute {words}")
    text = site.problem(SettingsError)
    assert "stores text as SQL_ASCII" in text
    site.run("DROP DATABASE institute", text.split("`")[1])
    check_site_databases(site.url, prefect_url(site.url))


def test_a_schema_that_the_server_refuses_is_one_sentence(site: Site) -> None:
    site.run("ALTER DATABASE institute OWNER TO glideflow")
    with pytest.raises(
        DatabaseUnavailable, match=r"^the database refuses the new schema \(permission denied [^\n]*\)$"
    ):
        migrate(site.url)


def test_a_database_of_a_newer_version_is_left_alone(site: Site) -> None:
    migrate(site.url)
    site.run("UPDATE alembic_version SET version_num = '9999'", database="institute")
    with pytest.raises(SettingsError, match=r"was migrated by a newer glideflow \(.*9999.*\): use that one"):
        migrate(site.url)


def test_up_ends_with_that_sentence_and_has_started_nothing(tmp_path: Path) -> None:
    (tmp_path / "glideflow.yaml").write_text(f"database_url: {OTHER}\nlauncher: local\n")
    up = subprocess.run(
        [Path(sys.executable).with_name("glideflow"), "up"],
        env=process_environment(GLIDEFLOW_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert up.returncode == 1
    assert up.stderr.startswith("error: database_url cannot be used: the database does not answer (")
    assert up.stderr.count("\n") == 1
    assert "started as process" not in (tmp_path / "logs" / "supervisor.log").read_text()
    assert list((tmp_path / "postgres").iterdir()) == []
