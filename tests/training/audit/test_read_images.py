"""The pass over the files: hints of blank and inverted images."""

from tests.training.audit.conftest import audited_image
from tests.training.audit.faulty_data import limb
from training.audit.read_images import is_blank, looks_inverted, stack_small


def test_every_limb_looks_inverted_only_after_inversion() -> None:
    small = stack_small([audited_image(limb(seed), "") for seed in range(40)])
    assert not looks_inverted(small).any()
    assert looks_inverted(255 - small).all()
    assert not is_blank(small).any()
