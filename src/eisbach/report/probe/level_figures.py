"""Pictures of a probe over noise levels: belief and weight, their spread between clips, and where their variance lies."""

from __future__ import annotations

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation
from eisbach.report.figures import _figure, _finish
from eisbach.report.page import PagePicture
from eisbach.report.probe.axes import BLUE, GREY, ORANGE, RED, band, bare, estimates, panels, t_axes, zero_based


def levels_picture(explanation: Explanation) -> PagePicture | None:
    """Belief, weights and their spread between clips over the noise level."""
    if not explanation.has_sample_weight:
        return noise_weight_picture(explanation)
    levels = explanation.levels
    t = [one.t for one in levels]
    figure, axes = panels(3, 10.5, 3.1)
    has_belief = any(one.columns["belief"].q50 is not None for one in levels)
    if has_belief:
        band(axes[0], levels, "belief", BLUE)
    else:
        axes[0].text(0.5, 0.5, "this weighting has no belief", ha="center", va="center", transform=axes[0].transAxes)
    axes[0].set_ylabel("belief (1 = structureless)")
    band(axes[1], levels, "sample_weight", BLUE)
    axes[1].set_ylabel("sample weight")
    zero_based(axes[1])
    raw = estimates(axes[2], t, [one.cv_sample_weight for one in levels], BLUE, "o", "before strength")
    trained = estimates(axes[2], t, [one.cv for one in levels], RED, "s", "as trained")
    axes[2].axhline(ACTS_CV, color=GREY, linestyle="--", linewidth=1)
    axes[2].set_ylabel("variation between clips (sd / mean)")
    zero_based(axes[2], at_least=1.6 * ACTS_CV)
    axes[2].annotate(
        "acts above", (1, ACTS_CV), xytext=(-2, 2), textcoords="offset points", xycoords=("axes fraction", "data"),
        color=GREY, fontsize=8, va="bottom", ha="right",
    )  # fmt: skip
    axes[2].legend(handles=[raw, trained], frameon=False, fontsize=8, loc="upper right")
    t_axes(axes)
    acting = wording.where(explanation.acts_at, t) if explanation.acts_at else "at no noise level"
    return PagePicture(
        "levels",
        "Belief and weight by noise level",
        "Lines are medians over clips and bands hold the middle 80%; on the right, how much the weights of different clips differ "
        f"at one noise level (below the dashed line, {ACTS_CV:g}, they are nearly alike).",
        f"Three panels over noise level: belief, sample weight, and its variation between clips. As trained, the variation reaches "
        f"{ACTS_CV:g} {acting}.",
        _finish(figure, list(axes), "", None),
    )


def noise_weight_picture(explanation: Explanation) -> PagePicture:
    """The weight over the noise level, where it is the same for every clip."""
    levels = explanation.levels
    figure, axes = _figure(6.0, 3.1)
    band(axes, levels, "weight", BLUE)
    zero_based(axes)
    axes.set_ylabel("weight")
    t_axes([axes])
    return PagePicture(
        "levels",
        "Weight by noise level",
        "The weight of a clip's loss at each noise level; without a sample weighting it is the same for every clip.",
        "The noise-level weight over noise level.",
        _finish(figure, [axes], "", None),
    )


def variance_picture(explanation: Explanation) -> PagePicture | None:
    """Where the variance of ln weight lies, as one bar a weight."""
    both = (("sample weight", explanation.sample_variance), ("as trained", explanation.variance))
    rows = [(name, one) for name, one in both if one is not None and one.level.value is not None]
    if not rows:
        return None
    figure, axes = _figure(7.5, 0.9 + 0.55 * len(rows))
    parts = (
        ("noise level", "level", ORANGE),
        ("clip", "clip", BLUE),
        ("rest (clip at a level, chance)", "remainder", "#BBBBBB"),
    )
    for place, (_, one) in enumerate(reversed(rows)):
        left = 0.0
        for title, key, colour in parts:
            width = 100 * (getattr(one, key).value or 0.0)
            axes.barh(place, width, left=left, height=0.6, color=colour, edgecolor="white")
            if width >= 9:
                axes.text(
                    left + width / 2,
                    place,
                    f"{width:.0f}%",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if colour == BLUE else "black",
                )
            if place == len(rows) - 1:
                axes.bar(0, 0, color=colour, label=title)
            left += width
    axes.set_yticks(range(len(rows)), [f"{name} (sd of ln w {one.sd:.2g})" for name, one in reversed(rows)])
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xlabel("share of the variance of ln weight (%)")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    bare(axes)
    said = "; ".join(
        f"{name}: {wording.percent(one.level.value)} noise level, {wording.percent(one.clip.value)} clip"
        for name, one in rows
    )
    return PagePicture(
        "variance",
        "Noise level or clip?",
        "A sample weighting whose variance lies between noise levels is a noise-level weighting in disguise; one that favours clips has "
        "it between clips.",
        f"Shares of the variance of ln weight: {said}.",
        _finish(figure, [axes], "", None),
    )
