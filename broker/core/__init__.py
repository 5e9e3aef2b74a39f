"""The broker's turn: what happened comes in as events, what is to be done goes out as effects. Pure."""
