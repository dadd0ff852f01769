"""`modelwatch letters`: look at dead letters, send them again, delete them."""
