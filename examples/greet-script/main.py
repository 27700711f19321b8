#!/usr/bin/env python3
import json
import os

def main():
    payload_str = os.environ.get('FUNCTION_PAYLOAD', '{}')
    payload = json.loads(payload_str)
    
    name = payload.get('name', 'World')
    result = {'message': f'Hello, {name}!'}
    
    print(json.dumps(result))

if __name__ == '__main__':
    main()
