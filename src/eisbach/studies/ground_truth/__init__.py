"""Do the structure metrics follow music whose structure is known?"""
