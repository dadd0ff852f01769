"""The modelwatch command."""
