"""Names that older handlers import from here."""

from ts.utils.util import PredictionException as PredictionException
