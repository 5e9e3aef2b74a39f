"""What clients ask for, whichever protocol they speak: from parameters to the body of an answer."""
