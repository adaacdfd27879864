"""`ops top` as something to leave open: what is drawn, what the keys do, what is asked for."""
