"""Records, tables, figures and the report."""
