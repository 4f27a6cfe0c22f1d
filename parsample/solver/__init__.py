"""Block DEER: block starts are corrected until every block starts where the one before it ended."""
