"""What node, launcher and model processes share. Never imports torch."""
