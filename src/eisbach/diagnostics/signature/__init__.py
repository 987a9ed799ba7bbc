"""Class-conditional entropy along the noise: at which noise level is a class, a word or a group of them decided?"""

from eisbach.diagnostics.signature.curve import SignatureCurve, load_curve

__all__ = ["SignatureCurve", "load_curve"]
