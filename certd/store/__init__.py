"""Rows: transactions on SQLite and PostgreSQL, and what is kept in them. The only room that speaks SQL."""
