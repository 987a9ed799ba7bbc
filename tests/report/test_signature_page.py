from __future__ import annotations

import math
from dataclasses import replace

from eisbach.diagnostics.signature.curve import HalfTime, SignatureCurve
from eisbach.diagnostics.signature.run import SignatureResult
from eisbach.report.signature import write_signature_page

T = [0.98, 0.8, 0.6, 0.4, 0.2, 0.02]
LEFT = [1.0, 0.9, 0.5, 0.2, 0.05, 0.0]


def curve(partition: str = "classes", estimator: str = "chain", quantity: str = "entropy", at: float | None = 0.6):
    prior = math.log(2)
    entropy = [prior * share for share in LEFT]
    return SignatureCurve(
        partition=partition, groups=["<low>", "high"], estimator=estimator, quantity=quantity, prior_entropy=prior, t=T,
        log_snr=[-4.0, -2.0, -0.8, 0.8, 2.0, 4.0], entropy=entropy, entropy_lo=entropy, entropy_hi=entropy, rate=LEFT,
        rate_lo=LEFT,
        rate_hi=LEFT, half=HalfTime(at, None if at is None else at - 0.02, None if at is None else at + 0.02, -0.8),
        path="linear",
        fine=entropy, coarse=entropy, meta={"trajectories": 8},
    )  # fmt: skip


def result(**arms):
    meta = {"model": "a <b> model", "model_identity": "abc", "steps": 6, "trajectories": 8}
    return SignatureResult(arms, meta)


def test_the_page_says_what_is_decided_first(tmp_path):
    late = replace(curve("tempo"), half=HalfTime(0.3, 0.28, 0.32, 1.0))
    page = write_signature_page(result(reverse=[late, curve(), curve(estimator="rate")]), tmp_path).read_text("utf-8")
    answer = page[page.index("The answer</h2>") : page.index("Numbers</h2>")]
    assert answer.index("classes at t = 0.60 (0.58 to 0.62)") < answer.index("tempo at t = 0.30")
    assert "a &lt;b&gt; model" in page
    assert page.count("<figure") == 3  # one arm, two partitions
    assert (tmp_path / "pictures" / "partition-tempo.png").is_file()


def test_a_guided_arm_is_no_answer_and_never_is_said(tmp_path):
    guided = curve(quantity="cross-entropy")
    page = write_signature_page(result(reverse=[curve(at=None)], **{"guided-3": [guided]}), tmp_path).read_text("utf-8")
    answer = page[page.index("The answer</h2>") : page.index("Numbers</h2>")]
    assert "never by half" in answer
    assert "guided-3" not in answer
