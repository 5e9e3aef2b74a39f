"""The highest of the latest values."""

from torchrelay.shared.recent_peak import recent_peak


def test_a_peak_counts_at_once_and_is_forgotten_slowly() -> None:
    peak = recent_peak(0.0, 1.0)
    assert peak == 1.0
    for _ in range(10):
        peak = recent_peak(peak, 0.0)
    assert 0.8 < peak < 0.9
    for _ in range(300):
        peak = recent_peak(peak, 0.5)
    assert 0.5 < peak < 0.51
