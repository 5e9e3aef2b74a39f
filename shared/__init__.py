"""What every process of the fleet agrees on."""
