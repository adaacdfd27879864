"""Events for other programs: where they may go, how one is posted, and the loop that posts them."""
