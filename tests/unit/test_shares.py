# SPDX-License-Identifier: Apache-2.0
"""The shares: read from YAML or refused with their line, and who is served next."""

from pathlib import Path
from typing import Any

import pytest

from glideflow.domain.demand import Leaf
from glideflow.domain.shares import Account, ShareConfig, Standing, make_tree, used
from glideflow.errors import SettingsError
from glideflow.resources import resource_dir
from glideflow.settings import load_settings
from glideflow.shares import load_shares

HOUR = 3600.0
ADA, BOB, EVE = ("atlas", "higgs", "ada"), ("atlas", "higgs", "bob"), ("belle", "", "eve")


def shares(**values: Any) -> ShareConfig:
    return ShareConfig.model_validate(values)


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "shares.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_without_a_file_all_are_equal_and_nothing_is_limited(tmp_path: Path) -> None:
    config = load_shares(load_settings(tmp_path))
    assert config.shares(ADA) == config.shares(EVE) == (1.0, 1.0, 1.0)
    assert (config.most_of_user("ada"), config.most_of_task(None), config.most_of_task(7)) == (None, None, 7)


def test_the_example_is_a_good_file(tmp_path: Path) -> None:
    text = (resource_dir("config") / "shares.example.yaml").read_text(encoding="utf-8")
    config = load_shares(load_settings(write(tmp_path, text)))
    assert set(config.vos) == {"atlas", "belle"}
    assert config.half_life_hours == ShareConfig().half_life_hours
    assert config.urgent_priority == ShareConfig().urgent_priority


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vos:\n  atlas:\n    shares: 3\n", "line 3: key `vos.atlas.shares`: unknown; did you mean `share`?"),
        (
            "vos:\n  atlas:\n    groups:\n      higgs:\n        share: 0\n",
            "line 5: key `vos.atlas.groups.higgs.share`: .* 0",
        ),
        ("half_life: 3\n", "line 1: key `half_life`: unknown; did you mean `half_life_hours`?"),
        ("limits: {running_per_user: none}\n", "line 1: key `limits.running_per_user`: .*none"),
        ("limits:\n  users:\n    bob: 0\n", "line 3: key `limits.users.bob`: .* 0"),
        ("vos: [atlas]\n", "line 1: key `vos`: must be a mapping"),
        ("- atlas\n", "expected lines such as"),
        ("vos: {\n", "is not valid YAML"),
        ("", "is empty"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_shares(load_settings(write(tmp_path, text)))


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDEFLOW_SHARES_FILE", str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match="does not exist"):
        load_shares(load_settings(tmp_path))


def test_a_name_that_is_not_in_the_file_gets_the_default_share_of_its_level() -> None:
    higgs = {"share": 3, "default_share": 0.5, "users": {"ada": 2}}
    config = shares(
        default_share=4,
        vos={"atlas": {"share": 60, "default_share": 7, "groups": {"higgs": higgs}, "users": {"ada": 9}}},
    )
    assert config.shares(("atlas", "higgs", "ada")) == (60, 3, 2)
    assert config.shares(("atlas", "higgs", "bob")) == (60, 3, 0.5)
    assert config.shares(("atlas", "susy", "ada")) == (60, 7, 7)
    assert config.shares(("atlas", "", "ada")) == (60, 7, 9)
    assert config.shares(("belle", "higgs", "ada")) == (4, 1, 1)


def test_the_limit_of_a_task_is_the_smaller_one_and_that_of_a_user_his_own() -> None:
    config = shares(limits={"running_per_user": 10, "running_per_task": 5, "users": {"bob": 20}})
    assert [config.most_of_task(wish) for wish in (None, 3, 9)] == [5, 3, 5]
    assert [config.most_of_user(name) for name in ("ada", "bob")] == [10, 20]


def test_what_was_used_counts_half_after_the_half_life() -> None:
    memory = shares(half_life_hours=24).memory_seconds
    assert used(1000.0, 0, 24 * HOUR, memory) == pytest.approx(500.0)
    assert used(0.0, 10, 60.0, memory) == pytest.approx(600.0, rel=1e-3)
    # Steps add up to the same as one long one.
    steps = used(used(700.0, 3, 5 * HOUR, memory), 3, 19 * HOUR, memory)
    assert steps == pytest.approx(used(700.0, 3, 24 * HOUR, memory))
    # Whoever holds a core for ever approaches the memory.
    assert used(0.0, 1, 1000 * HOUR, memory) == pytest.approx(memory)


def working(**core_seconds: float) -> dict[Leaf, Account]:
    """Users of one group with work, by what they used."""
    return {("vo", "", name): Account(core_seconds=amount, has_work=True) for name, amount in core_seconds.items()}


def test_the_one_that_used_least_for_his_share_is_served() -> None:
    config = shares(vos={"vo": {"users": {"ada": 10, "bob": 1}}})
    accounts = working(ada=500.0, bob=100.0)
    assert Standing(config, accounts).pick(accounts) == ("vo", "", "ada")
    assert Standing(ShareConfig(), accounts).pick(accounts) == ("vo", "", "bob")


def test_of_equals_the_first_one_is_served() -> None:
    accounts = working(zoe=0.0, ada=0.0)
    assert Standing(ShareConfig(), accounts).pick(accounts) == ("vo", "", "zoe")


def test_a_group_is_judged_by_all_of_its_users_also_by_those_without_work() -> None:
    accounts = {
        ADA: Account(core_seconds=0.0, has_work=True),
        BOB: Account(core_seconds=900.0),
        EVE: Account(core_seconds=500.0, has_work=True),
    }
    assert Standing(ShareConfig(), accounts).pick({ADA, EVE}) == EVE


def test_what_runs_counts_at_once() -> None:
    accounts = {ADA: Account(cores=40, has_work=True), EVE: Account(cores=30, has_work=True)}
    standing = Standing(ShareConfig(), accounts)
    picked = []
    for _ in range(12):
        leaf = standing.pick(accounts)
        standing.charge(leaf, 1)
        picked.append(leaf)
    assert picked == [EVE] * 10 + [ADA, EVE]
    standing.charge(ADA, -20)
    assert standing.pick(accounts) == ADA


def test_whoever_catches_up_leaves_the_others_half_of_their_share() -> None:
    accounts = {ADA: Account(core_seconds=1e9, cores=25, has_work=True), EVE: Account(cores=75, has_work=True)}
    assert Standing(ShareConfig(), accounts).pick(accounts) == EVE
    accounts[ADA] = Account(core_seconds=1e9, cores=23, has_work=True)
    standing = Standing(ShareConfig(), accounts)
    assert standing.pick(accounts) == ADA
    standing.charge(ADA, 2)
    assert standing.pick(accounts) == EVE


def test_whoever_has_less_than_a_core_by_his_share_earns_one_by_waiting() -> None:
    config = shares(vos={"big": {"share": 99}, "small": {"share": 1}})
    big, small = ("big", "", "ada"), ("small", "", "eve")

    def served(waited: float) -> Leaf:
        accounts = {
            big: Account(cores=8, has_work=True),
            small: Account(core_seconds=1e9, waited_seconds=waited, has_work=True),
        }
        return Standing(config, accounts).pick(accounts)

    # Half of 1 % of 8 cores is a core for one hour in 25.
    assert served(23 * HOUR) == big
    assert served(25 * HOUR) == small


def test_only_leaves_that_are_asked_for_are_served() -> None:
    accounts = {("vo", f"g{number % 7}", f"u{number}"): Account(has_work=True) for number in range(50)}
    standing = Standing(ShareConfig(), accounts)
    leaves = list(accounts)
    assert standing.pick({leaves[30]}) == leaves[30]
    assert standing.pick(set(leaves[20:])) == leaves[21]
    with pytest.raises(KeyError, match="nobody"):
        standing.pick({("nobody", "", "")})


def test_a_leaf_without_known_work_is_charged_without_effect() -> None:
    standing = Standing(ShareConfig(), working(ada=0.0))
    standing.charge(EVE, -1)
    assert standing.pick({("vo", "", "ada")}) == ("vo", "", "ada")


def test_jobs_that_another_endpoint_handed_out_may_end_here() -> None:
    accounts = {ADA: Account(cores=1, has_work=True), EVE: Account(has_work=True)}
    standing = Standing(ShareConfig(), accounts)
    for _ in range(5):
        standing.charge(EVE, -1)
        standing.charge(ADA, -1)
    assert standing.pick(accounts) == ADA
    standing.charge(ADA, 1)
    assert standing.pick(accounts) == EVE


def test_the_tree_adds_up_what_is_below() -> None:
    tree = make_tree(
        ShareConfig(),
        {ADA: Account(core_seconds=1.0, cores=2), BOB: Account(core_seconds=4.0), EVE: Account(cores=8, has_work=True)},
    )
    atlas = tree.children["atlas"]
    assert (tree.core_seconds, tree.cores, tree.has_work) == (5.0, 10, True)
    assert (atlas.core_seconds, atlas.cores, atlas.has_work) == (5.0, 2, False)
    assert atlas.children["higgs"].children["bob"].leaf == BOB


def test_the_place_of_a_leaf_is_its_number_among_those_with_work() -> None:
    standing = Standing(ShareConfig(), working(ada=500.0, bob=100.0, eve=300.0))
    assert [standing.number(("vo", "", name)) for name in ("ada", "bob", "eve")] == [(3, 3), (1, 3), (2, 3)]


def test_the_names_of_the_file_are_known_at_each_level() -> None:
    groups = {"higgs": {"share": 3, "users": {"ada": 2}}}
    config = shares(
        vos={"atlas": {"share": 60, "default_share": 5, "groups": groups, "users": {"bob": 4}}, "belle": {}}
    )
    assert config.named(()) == {"atlas": 60, "belle": 1}
    assert config.named(("atlas",)) == {"higgs": 3, "": 5}
    assert config.named(("belle",)) == {}
    assert config.named(("atlas", "higgs")) == {"ada": 2}
    assert config.named(("atlas", "")) == {"bob": 4}
    assert config.named(("mars",)) == config.named(("mars", "x")) == {}
