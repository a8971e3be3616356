"""`hfkit serve`: an endpoint with OpenAI's interface for one or more models."""
