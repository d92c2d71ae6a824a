"""`beta-clip demo`: a page in the browser that searches, shows where phrases look, and compares captions."""
