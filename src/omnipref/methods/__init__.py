"""One file per published method; `omnipref.registry` finds them."""
