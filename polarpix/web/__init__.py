"""The server: a page and a JSON endpoint around predictors."""
