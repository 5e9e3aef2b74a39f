"""What starting takes: settings, checks, folders, processes and their supervision."""
