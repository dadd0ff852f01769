"""`modelwatch top`: what the processes say of themselves, live in a terminal."""
