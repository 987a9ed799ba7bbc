import pytest

from eisbach.errors import UserError
from eisbach.experiments.comparing import compare_sets
from eisbach.experiments.measures import CONDITIONS, FLAT, known_metrics
from eisbach.statistics.records import choose_metrics
from eisbach.structure.metrics import METRICS
from eisbach.types import Record


def rows():
    row = {"arm": "a", "prompt_id": "p", "seed": 0, "path": "x", "flags": "", "duration": 3.0, "own": 1.5, "yes": True}
    return [row | {"is_flat": False, "flat_probability": 0.1, **dict.fromkeys(METRICS, 0.5)}]


def test_the_headline_leads_primaries_follow_and_conditions_are_left_out():
    infos = known_metrics(rows())
    assert infos[0] == FLAT
    assert [info.primary for info in infos] == sorted((info.primary for info in infos), reverse=True)
    assert {info.name for info in infos if info.primary} == {"is_flat"} | {n for n, m in METRICS.items() if m.primary}
    assert not {info.name for info in infos} & CONDITIONS
    own = {info.name: info for info in infos}
    assert (own["own"].better, own["own"].share, own["yes"].share) == (None, False, True)


def test_every_metric_of_the_table_has_words_of_its_own():
    for info in known_metrics(rows()):
        if info.name in METRICS:
            assert info.meaning
            assert info.unit == METRICS[info.name].unit


def test_choosing_keeps_the_order_and_declares_directions():
    infos = known_metrics(rows())
    chosen = choose_metrics(infos, ["closure", "is_flat"], ["closure"])
    assert [(info.name, info.primary) for info in chosen] == [("closure", True), ("is_flat", False)]
    declared = choose_metrics(infos, primary={"level_range": "lower", "is_flat": "lower"})
    assert [(i.name, i.better) for i in declared[:2]] == [("level_range", "lower"), ("is_flat", "lower")]
    assert sum(info.primary for info in declared) == 2


@pytest.mark.parametrize(
    ("names", "primary", "said"), [(["nope"], [], "'nope'"), (["closure"], ["is_flat"], "--metrics")]
)
def test_wrong_choices_are_refused(names, primary, said):
    with pytest.raises(UserError, match=said):
        choose_metrics(known_metrics(rows()), names, primary)


def test_what_notes_say_is_compared() -> None:
    rows: list[Record] = [
        {"id": f"{group}{n}", "group": group, "path": f"{group}/{n}.flac", "duration": 30.0, "block_strength": 0.1 * n,
         "note_motifs": 0.2 + 0.3 * (group == "b") + 0.01 * n, "notes_per_second": 3.0}
        for group in "ab"
        for n in range(8)
    ]  # fmt: skip
    sets = compare_sets(rows, metrics=["note_motifs"], primary=["note_motifs"])
    assert sets.comparison("b", "note_motifs").verdict == "higher"
    assert {info.name for info in compare_sets(rows).metrics} >= {"note_motifs", "notes_per_second", "block_strength"}
