"""What a model is: declaration, contract, encoder, scorer. Pure Python that ships inside the Bento."""
