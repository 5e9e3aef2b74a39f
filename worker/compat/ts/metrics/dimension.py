"""One dimension of a metric."""


class Dimension:
    """A name and a value that tell one series of a metric from another."""

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, str]:
        """Return the dimension as `MetricEncoder` writes it."""
        return {"Name": self.name, "Value": self.value}
