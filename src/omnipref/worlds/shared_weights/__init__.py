"""What a loss on one pair does to everything else, in a network whose weights all responses share."""
