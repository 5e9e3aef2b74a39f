"""HTTP in, jobs out: the stateless front of the fleet."""
