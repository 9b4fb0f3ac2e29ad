"""What exact preference scoring costs: the peers, our own layouts, and the limits that token counts set."""
