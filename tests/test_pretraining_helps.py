"""A tiny run as it stands makes features better than those of the same network untrained."""

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mae", "dino", "simclr"])
def test_pretrained_features_beat_untrained_ones(fit, tmp_path, objective):
    probe = fit(objective, f"--data.root={tmp_path / 'phantom'}", data="phantom", small=False)["probe"]
    assert probe["difference"]["linear"]["low"] > 0
    assert probe["difference"]["knn"]["value"] > 0
