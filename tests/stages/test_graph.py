"""Order and gates follow from the stages; what cannot be placed is refused with one sentence."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from handloom.errors import UserError
from handloom.pipeline.recipes import CurateConfig, EpisodeConfig, row_stages
from handloom.stages.graph import gates, insert
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Row


def stage(name: str, *reads: str, gate: str = "", filters: bool = False) -> Stage:
    """A stage with nothing but its place."""

    @dataclass(frozen=True)
    class Placed(Stage):
        row_type: ClassVar[type[Row]] = Row

        def __call__(self, *inputs: Any) -> Iterator[Row]:
            yield Row(clip_id=inputs[0].clip_id)

    found = Placed()
    for key, value in {
        "name": name, "reads": dict.fromkeys(reads, Row), "gate": gate, "filters": filters
    }.items():  # fmt: skip
        object.__setattr__(found, key, value)
    return found


INGEST = stage("ingest")


def test_the_flows_of_the_recipes_are_those_of_the_architecture() -> None:
    assert list(gates(row_stages(CurateConfig())).items()) == [
        ("ingest", ""),
        ("hands", "ingest"),
        ("duplicates", "hands"),
        ("select", "hands"),
        ("caption", "select"),
        ("tokens", "select"),
    ]
    assert list(gates(row_stages(EpisodeConfig())).items()) == [
        ("ingest", ""),
        ("episodes", "ingest"),
        ("caption", "episodes"),
        ("tokens", "episodes"),
    ]


def test_a_filter_in_a_recipe_gates_what_is_listed_after_it() -> None:
    @dataclass(frozen=True)
    class Blur(Stage):
        name: ClassVar[str] = "blur"
        row_type: ClassVar[type[Row]] = Row
        filters: ClassVar[bool] = True

    @dataclass(frozen=True)
    class WithBlur(EpisodeConfig):
        blur: Blur = field(default_factory=Blur)  # behind the fields of the recipe, so it is last

    last = gates(row_stages(WithBlur()))
    assert (last["blur"], last["caption"], last["tokens"]) == ("episodes",) * 3
    listed = row_stages(WithBlur())
    middle = gates([*listed[:2], listed[-1], *listed[2:-1]])
    assert (middle["blur"], middle["caption"], middle["tokens"]) == ("episodes", "blur", "blur")


def test_a_stage_runs_after_its_gate_and_what_it_reads_wherever_it_is_listed() -> None:
    listed = [stage("c", "b", gate="a"), stage("b", gate="a"), stage("a", filters=True), INGEST]
    assert list(gates(listed).items()) == [("ingest", ""), ("a", "ingest"), ("b", "a"), ("c", "a")]


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ([stage("hands")], "no stage is called ingest"),
        ([INGEST, stage("a"), stage("a")], "2 stages are called 'a'"),
        ([INGEST, stage("a", gate="selct")], "a needs the table of 'selct'"),
        ([INGEST, stage("a", "hand")], "a needs the table of 'hand'"),
        ([INGEST, stage("a", "b"), stage("b", gate="a")], "a, b cannot be put in order"),
        ([INGEST, stage("a", gate="a")], "a cannot be put in order"),
        (
            [INGEST, stage("a", filters=True), stage("b"), stage("c", "b", gate="ingest")],
            "rows of those alone that passed a; set `gate` to 'a' or 'b'",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused(stages: list[Stage], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        gates(stages)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def placed(*added: Stage) -> list[tuple[str, str]]:
    """The flow of a recipe with stages from outside."""
    a_filter = stage("select", filters=True)
    recipe = [INGEST, stage("hands"), a_filter, stage("caption"), stage("tokens")]
    return list(gates(insert(recipe, added)).items())


def test_an_added_filter_comes_behind_the_last_one_and_before_what_costs_most() -> None:
    flow = placed(stage("blur", filters=True), stage("dull", "hands", filters=True))
    assert flow[2:] == [
        ("select", "ingest"),
        ("blur", "select"),
        ("dull", "blur"),
        ("caption", "dull"),
        ("tokens", "dull"),
    ]


def test_an_added_stage_comes_behind_what_it_reads() -> None:
    assert placed(stage("polite", "caption", filters=True))[3:] == [
        ("caption", "select"),
        ("polite", "select"),
        ("tokens", "polite"),
    ]


def test_an_added_stage_that_names_its_gate_gets_its_clips() -> None:
    assert ("dull", "hands") in placed(stage("dull", gate="hands"))


def test_an_added_stage_that_cannot_be_placed_is_refused() -> None:
    with pytest.raises(UserError, match="dull needs the table of 'nothing'"):
        placed(stage("dull", "nothing"))
