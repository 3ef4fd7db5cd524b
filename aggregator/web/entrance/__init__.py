"""The way in to the pages: sign-in, sign-out, and what is said to whoever may not come in."""
