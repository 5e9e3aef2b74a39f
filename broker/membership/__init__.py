"""Who may join, by which key, and what whoever has joined may say; pure."""
