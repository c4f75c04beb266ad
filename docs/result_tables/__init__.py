"""The tables of the pages, a module for each page: what lies between its marks, from all records."""
