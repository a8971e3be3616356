"""`hfkit label`: people rank responses on a page, or a judge ranks them."""
