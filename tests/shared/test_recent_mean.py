"""What the latest values come to."""

from torchrelay.shared.recent_mean import recent_mean


def test_a_mean_follows_slowly_and_one_value_is_not_all() -> None:
    mean = 1.0
    for _ in range(400):
        mean = recent_mean(mean, 0.0001)
    assert 0.0001 < mean < 0.0005
    assert recent_mean(mean, 0.01) < 0.001
    for _ in range(300):
        mean = recent_mean(mean, 0.01)
    assert 0.009 < mean < 0.01
