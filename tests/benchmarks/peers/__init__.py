"""Of the comparison with other servers."""
