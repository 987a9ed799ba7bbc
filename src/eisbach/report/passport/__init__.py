"""The passport of an adapter: what it is, was made from and does; as a model card, in the file, on a hub."""

from eisbach.report.passport.write import WrittenPassport, after_training, write_passport

__all__ = ["WrittenPassport", "after_training", "write_passport"]
